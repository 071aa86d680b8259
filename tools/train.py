from mmyolo_ext.cli.train import main

if __name__ == '__main__':
    main()
