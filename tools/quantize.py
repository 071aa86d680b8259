from mmyolo_ext.cli.quantize import main

if __name__ == '__main__':
    main()
