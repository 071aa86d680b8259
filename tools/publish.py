from mmyolo_ext.cli.publish import main

if __name__ == '__main__':
    main()
